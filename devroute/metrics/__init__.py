"""What Prometheus reads from a proxy or an agent: `table` has each metric's name, labels and buckets, once;
`instruments` what requests count with; `requests` the metrics of requests; `exposition` the text.
"""
