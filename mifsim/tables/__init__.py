"""Parquet tables: their schemas, checked reading and atomic writing, on local paths and URLs."""
