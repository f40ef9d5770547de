"""The spine: shared words below, the loop above."""
