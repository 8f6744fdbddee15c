"""CodePal, the sample application: its schema and its data, the workload of the demo, the tests and the benchmarks."""
