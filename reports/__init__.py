"""Tables, figures and the report page of a run, made from the files of its run folder alone."""
