"""What is raised: metrics, functions, sums, the distance to a folder of real videos."""
