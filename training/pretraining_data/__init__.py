"""Raw pretraining data from plain text: documents, their WordPiece tokens, and masked sentence pairs."""
