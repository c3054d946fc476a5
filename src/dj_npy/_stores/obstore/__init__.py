"""Objects in S3, GCS and Azure, through obstore: `clients` opens a `store`, the `reader` reads."""
