"""Features made up from annotations: `features` says how, `config` how hard they are."""
