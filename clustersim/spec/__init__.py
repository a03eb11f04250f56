"""What was asked: documents with line numbers, and the frozen records they become."""
