"""What can be done with a `.wfz` file on the command line: inspect, bench, export, expand."""
