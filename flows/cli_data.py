"""The data team's verbs: embed, search, inspect."""
