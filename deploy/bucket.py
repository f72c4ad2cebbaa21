"""Makes the bucket of the artifacts, unless it is there. Reads S3_BUCKET and boto3's own variables."""

import os

import boto3

store, bucket = boto3.client("s3"), os.environ["S3_BUCKET"]
if bucket not in [each["Name"] for each in store.list_buckets()["Buckets"]]:
    store.create_bucket(Bucket=bucket)
