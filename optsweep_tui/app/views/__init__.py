"""What each screen says, as pure functions from data to rows of coloured text; no Textual here."""
