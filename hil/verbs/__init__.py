"""The verbs of the command line, by what they are about; each imports its package when it runs."""
