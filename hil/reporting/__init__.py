"""What a run leaves behind: its folder, its report, its figures."""
