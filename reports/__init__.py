"""What a run found, from its Parquet files alone: tables, figures, the page."""
