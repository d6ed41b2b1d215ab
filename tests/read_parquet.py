"""Prints the rows of a folder of Parquet files as JSON lines, as pyarrow reads them: the partition's day, then all columns."""

import json
import sys

import pyarrow.dataset

dataset = pyarrow.dataset.dataset(sys.argv[1], format="parquet", partitioning="hive")
for batch in dataset.to_batches():
    for row in batch.to_pylist():
        print(json.dumps({name: None if value is None else str(value) for name, value in row.items()}))
print(json.dumps({field.name: str(field.type) for field in dataset.schema}))
