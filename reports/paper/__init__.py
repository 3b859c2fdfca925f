"""The paper's evaluation beside its reproduction: tables, figures and a page, from Parquet files alone."""
