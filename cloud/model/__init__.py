"""The base model of the cloud: the one that ships, a folder, or a name on the hub; and text as
tokens."""
