"""What is learnt, and how hard it is: text sources, the reports that ship, words and lexicon."""
