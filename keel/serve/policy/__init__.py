"""Serving a policy: OpenAI's protocol in front, workers that hold the models behind it.

The front (`app`) holds no model. Each arm is an engine (`engine`): a process of ours (`worker`), or a server of the same protocol
(`remote`). `router` decides which arm answers and goes on with another one when that is gone; `canary` decides how many go to the new one.
"""
