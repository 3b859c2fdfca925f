"""The watch: whether the traffic of a guard still keeps the promise of its filter's calibration.

The tests are valid at all times: whoever looks at them after every session raises a false alarm with no more than the
stated probability. They need numpy only; `mifsim.watch.log` reads the log of a guard with pyarrow.
"""
