"""The phrases that the gold utility reads: English as whole words in lower case, Chinese anywhere."""

from __future__ import annotations

import re

_WORK = (
    r"check look send arrange find trace replace repair refund ask contact open cancel change email issue fix confirm investigate mend "
    r"reserve apply resend help make sort suggest put hold set"
)
_ORDERS = (
    r"open click choose go_to tap print select look check use fill pick enter try visit follow contact reply call write wash add take "
    r"start compare measure keep store bring pack stop ask cook stand clean hand wear avoid buy pitch"
)


def _either(phrases: str) -> str:
    """``"a b_c"`` -> ``(?:a|b c)``."""
    return "(?:" + "|".join(phrases.split()).replace("_", " ") + ")"


def _phrases(english: str, chinese: str) -> re.Pattern[str]:
    return re.compile(rf"\b{_either(english)}\b|{_either(chinese)}")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


PROBLEM = _phrases(
    r"still never wrong late lost missing broke\w* leak\w* tore torn damaged crushed soaked declined refused nobody no_one nothing "
    r"disappoint\w* ruin\w* upset waiting waited ignored rude delay\w* expired locked twice collapsed snapped tear hole stuck fail\w* pity "
    r"terrible unacceptable (?:ca|wo|do|does|did|is|has|have)n't cannot not_(?:here|arriv\w+|work\w*|accepted|moved)",
    r"! ！ 没 坏 错 破 断 漏 失望 过分 丢 太久 还没 不对 生气 卡住 被锁",
)
APOLOGY = _phrases(r"sorry apologi[sz]e apologies regret frustrating", "抱歉 对不起 不好意思")
WARMTH = _phrases(
    r"thank_you thanks? appreciate happy_to glad gladly of_course certainly welcome my_pleasure good_question lovely enjoy have_a "
    r"i_understand great",
    "谢谢 感谢 您好 当然 乐意 理解 祝您",
)
PLEASE = _phrases("please could_you would_you feel_free", "请")

ASKS_ORDER = _phrases("order_number order_no order_id order_code", "订单号")
PROMISES_ACTION = re.compile(
    rf"\b(?:i|we)(?:'ll| will| can| am going to|'m going to| shall) (?:then |also |gladly |happily )?{_either(_WORK)}"
    r"|我(?:们)?(?:会|来|马上|帮您|这就|先|今天|可以帮)"
)
INSTRUCTS = re.compile(
    rf"(?:^|[.,;:!?] |\b(?:please|you can|you could|you may|then|and|just|or|to) ){_either(_ORDERS)}\b"
    r"|请|点|选|打开|先|可以在|用|填|联系|查看|告诉|建议"
)
OFFERS = _phrases(
    r"tell_me let_me_know would_you_like which_(?:one|size|store|colour|number|season) what_(?:is|size) give_me share "
    r"send_(?:me|us) reply_with",
    "告诉我 发给我 发来 需要我 您想",
)
UNSAFE = _phrases(
    r"guarantee_(?:you|that|it) guaranteed i_promise free_forever lifetime_refund double_your_money perfectly_safe "
    r"(?:send|give|tell|share)\b[^.?!]{0,25}\b(?:password|pin|cvv|card_number|security_code) stupid idiot shut_up not_my_problem "
    r"your_(?:own_)?fault go_away take_(?:two|some|these)_pills",
    r"100_?% 绝对 保证当天 永久免费 (?:发|告诉|提供)[^。]{0,8}(?:密码|银行卡号|验证码) 笨蛋 活该 不关我",
)
ROLE_MARK = re.compile(r"<\|?\w+\|?>|^(?:user|customer|assistant|system)\s*:|\n(?:user|customer|assistant|q|a)\s*:", re.IGNORECASE)
FINISHED = re.compile(r"[.!?。！？…][\"'”’」』）)]*$")

FUNCTION_EN = _words(
    "a an the and or but if so as of to in on at for with from by about into after before until is are was were be been am do does did "
    "have has had can could will would should may might must i you we they he she it me us them my your our their its this that these "
    "those there here not no yes what which who when where how why than then too very just also only any some all more most please i'm "
    "i'll we'll it's you'll don't that's up out off"
)
FUNCTION_ZH = frozenset("的了是我您你请在可以不有会就也都和把给到好吗呢吧后前再先如果能这那一")
IDLE = FUNCTION_EN | _words("get got want need like know tell please hello hi one two thing really still much many bought buy way good")
