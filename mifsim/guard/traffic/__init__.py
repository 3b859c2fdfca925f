"""The traffic log: a row for each judged query, in Parquet files that a calibration reads as they are.

The event loop hands over packed rows (`log.py`, `rows.py`). A thread (`writer.py`) appends them to a journal
(`journal.py`), which survives the end of the process. Closed journals become Parquet files (`segments.py`).
"""
