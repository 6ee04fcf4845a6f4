"""
Conversions, pure: messages into the values that the server decides with, and back.

The only modules that know both, apart from `policy_server.answering`: an EgressPathConfig is the
server's own value.
"""
