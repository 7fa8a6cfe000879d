TerminalEnv = None
