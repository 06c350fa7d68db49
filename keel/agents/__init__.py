"""Agents: programs that ask an OpenAI endpoint for the policy's answers, trained as they are.

`endpoint` is the server, a key a conversation; `asked` reads what a request may ask for; `talk` finds which earlier request one goes on
from, and keeps the tokens; `sampler` draws what waits in waves; `opening` makes the prompts. The processes are `keel.environments`'.
"""
