"""Does an answer say who made it? Then whoever judges it is not blind."""

from __future__ import annotations

import re
from functools import lru_cache

_MAKERS = (
    "OpenAI|Anthropic|Google(?: DeepMind)?|DeepMind|Meta(?: AI)?|Microsoft|Mistral(?: AI)?|Alibaba(?: Cloud)?|DeepSeek|Moonshot(?: AI)?|"
    "Zhipu(?: AI)?|Baidu|Tencent|ByteDance|xAI|Cohere|Nvidia|Hugging ?Face|Stability AI|01\\.AI|MiniMax|Databricks|EleutherAI|LMSYS"
)
_MODELS = (
    "ChatGPT|GPT-?[345][\\w.-]*|InstructGPT|Gemini|Gemma|PaLM|Mi[sx]tral|Qwen|Tongyi|DeepSeek|ChatGLM|GLM-?\\d[\\w.-]*|Ernie Bot|Grok|"
    "Phi-?\\d|SmolLM|InternLM|Baichuan|Yi-\\d+B|StableLM|OpenAssistant|Open Assistant|LLaVA|"
    "(?-i:Claude|Bard|LLaMA|Llama|Vicuna|Alpaca|Kimi|Ernie|Copilot|Command R|Dolly|Koala|Falcon)"  # in small letters they are words
)
_HAN_MAKERS = "阿里巴巴|阿里云|百度|腾讯|字节跳动|深度求索|月之暗面|智谱|讯飞|科大讯飞|谷歌|微软|商汤|零一万物|百川"
_HAN_MODELS = "通义千问|千问|文心一言|豆包|混元|星火|智谱清言|盘古"
_ENGLISH = re.compile(
    rf"\bI(?:['’]m| am|, ) ?(?:an? )?(?:(?:AI|language|chat|large|assistant|model|called|named|a|the|bot)[ ,]*){{0,6}}(?:{_MODELS})\b"
    rf"|\b(?:my name is|call me) (?:{_MODELS})\b"
    rf"|\bas (?:an? )?(?:{_MODELS})\b"
    rf"|\b(?:developed|created|trained|made|built|designed|provided) by (?:the team at |researchers (?:at|from) )?(?:{_MAKERS})\b"
    rf"|\bas an? (?:AI|artificial intelligence|language model|large language model)\b[^.\n]{{0,60}}\b(?:{_MAKERS}|{_MODELS})\b",
    re.IGNORECASE,
)
_HAN = re.compile(
    rf"我(?:是|叫|的名字(?:是|叫))[^。！？，,；\n]{{0,20}}(?:{_HAN_MODELS}|{_MODELS}|{_HAN_MAKERS}|{_MAKERS})"
    rf"|(?:由|是)(?:{_HAN_MAKERS}|{_MAKERS})[^。！？\n]{{0,12}}(?:开发|研发|训练|创建|打造|推出|构建|提供)"
    rf"|作为(?:{_HAN_MODELS}|{_MODELS})",
    re.IGNORECASE,
)


@lru_cache(maxsize=4096)
def names_itself(text: str) -> str:
    """The words with which an answer names its model or its maker, in English or Chinese; empty when it does not.

    It finds the usual sentences ("As an AI developed by ..."), not every one. A text about a company or a model is no naming.
    """
    found = _ENGLISH.search(text) or _HAN.search(text)
    return found.group(0) if found else ""


def masked(text: str) -> str:
    """The text with such words made unreadable, for reports."""
    return _HAN.sub("▇▇▇", _ENGLISH.sub("▇▇▇", text))
