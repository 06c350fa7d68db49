"""What a support answer is about: words by topic, in English and Chinese. The gold utility reads prompts and answers through this table."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Topic:
    """``en`` are stems (each matches any ending), ``zh`` stand anywhere. ``by_order``: an order number helps to settle it."""

    name: str
    en: str
    zh: str
    by_order: bool = False

    def found(self, text: str) -> frozenset[str]:
        """The topic's words in lower-case ``text``, each once, by stem."""
        return frozenset(_pattern(self).findall(text))


TOPICS = (
    Topic(
        "order",
        "order parcel package box track deliver ship courier dispatch arriv warehouse depot driver packed transit",
        "订单 包裹 快递 物流 发货 送到 发出 收货 仓库 签收 派送 寄出",
        by_order=True,
    ),
    Topic(
        "returns",
        "return send-back sent-back exchang swap label unused tag 60-days drop-off",
        "退货 退掉 换货 换成 能退 退换 寄回 吊牌 六十天",
        by_order=True,
    ),
    Topic(
        "refunds",
        "refund money charge bank card credit paid amount fee pay-back",
        "退款 退钱 到账 扣款 扣了 差价 银行 预授权 原路",
        by_order=True,
    ),
    Topic(
        "shipping",
        "ship deliver postage express courier post locker pick-up collect customs parcel freight",
        "包邮 快递 加急 寄到 送货 工作日 快递柜 运费",
    ),
    Topic(
        "sizing",
        "siz fit wide narrow tight loose cm waist feet foot toe measur small large medium torso",
        "尺码 码 合身 大号 小号 厘米 袜子 宽 紧",
    ),
    Topic(
        "shelter",
        "tent sleep bag mat hammock camp night warm cold down synthetic season wind peg bivvy",
        "帐篷 睡袋 防潮垫 露营 保暖 羽绒 化纤 风 隧道",
    ),
    Topic(
        "clothing",
        "jacket boot shoe sock glove trouser fleece wool merino rain waterproof shell layer wash",
        "冲锋衣 外套 登山鞋 手套 裤 防水 雨衣 抓绒 洗",
    ),
    Topic(
        "gear",
        "stove pack rucksack lamp filter pole water light litre weigh battery cook pot rope sunglass",
        "炉 背包 头灯 登山杖 水壶 电池 净水 墨镜 绳",
    ),
    Topic(
        "repairs",
        "repair warrant guarantee workshop mend sew replac spare patch zip buckle sole broke seal seam",
        "维修 保修 修 换新 拉链 补 缝 坏",
        by_order=True,
    ),
    Topic(
        "payment",
        "pay card invoice instal checkout voucher code transfer discount bank receipt tax",
        "付款 分期 发票 结账 优惠码 支付 报销 银行卡",
    ),
    Topic(
        "account",
        "account log-in login password email e-mail address newsletter points sign profile link unsubscrib",
        "账户 账号 密码 登录 邮件 积分 邮箱",
    ),
    Topic("stock", "stock availab sold-out batch notif reserv aside left colour restock expect", "有货 到货 库存 补货 通知 留一件"),
    Topic("gift_cards", "gift-card gift voucher code balance card valid amount", "礼品卡 余额 卡号 有效"),
    Topic("hours", "open clos store shop hour appointment book park sunday saturday holiday", "开门 营业 门店 几点 周日 预约"),
    Topic(
        "safety",
        "safe danger never gas canister fire carbon doctor outside helmet rope harness heater",
        "安全 危险 一氧化碳 着火 气罐 医生 不要",
    ),
)

_CACHE: dict[str, re.Pattern[str]] = {}


def _pattern(topic: Topic) -> re.Pattern[str]:
    if topic.name not in _CACHE:
        stems = "|".join(re.escape(stem).replace(r"\-", "[ -]?") for stem in sorted(topic.en.split(), key=len, reverse=True))
        _CACHE[topic.name] = re.compile(rf"\b(?:{stems})(?=[a-z]{{0,4}}\b)|(?:{'|'.join(topic.zh.split())})")
    return _CACHE[topic.name]


def topics_of(text: str, limit: int = 3) -> tuple[Topic, ...]:
    """The topics that most of the text's words speak of, at most ``limit``; a topic with under half the leader's words is left out."""
    counted = [(len(topic.found(text.lower())), topic) for topic in TOPICS]
    best = max(n for n, _ in counted)
    ranked = sorted((item for item in counted if item[0] and 2 * item[0] >= best), key=lambda item: -item[0])
    return tuple(topic for _, topic in ranked[:limit])
