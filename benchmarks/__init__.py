"""What this server costs beside what a user would pick instead: ``python -m benchmarks``; see docs/performance.md."""
