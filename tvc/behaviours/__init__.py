"""What behaviours models show: suites, rates with intervals, and searches by them."""
