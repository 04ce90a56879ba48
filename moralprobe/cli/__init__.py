"""The command line: one file a command, each calls one public function."""
