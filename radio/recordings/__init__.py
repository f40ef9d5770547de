"""SigMF: a session of the link recorded, and replayed."""
