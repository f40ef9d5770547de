"""A round of training: text in, a low-rank update and what each part of it is worth out."""
