"""The report of the reproduction: tables, figures and a page beside the paper's values, from Parquet files only."""
