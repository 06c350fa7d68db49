"""Wordings by which the work of a sentence is told: it turns down, objects, warns, points elsewhere, offers more. English and Chinese.

Only wordings, no topics: "a crime" in a definition of robbery is no objection, and `signs.py` looks at where a sentence stands.
"""

from __future__ import annotations

import re


def _any(*patterns: str) -> re.Pattern[str]:
    return re.compile("|".join(patterns), re.IGNORECASE)


_UNABLE = (
    r"(?:can(?:'t| ?not)|could(?:n't| not)(?! (?:find|verify|locate|help (?:but|\w+ing)))|won't|will not|(?:am|'m) (?:un|not )able to"
    r"|(?:must|have to|need to) (?:decline|refuse)(?: to)?|(?:am|'m) not (?:going|programmed|designed|allowed|permitted) to"
    r"|do(?:n't| not) (?:feel comfortable|think i (?:can|should)))"
)
_DO = (
    r"(?:help|assist|provide|providing|comply|fulfill?|support|do (?:that|this|so)|answer|discuss|give|share|write|create|generate|produce|"
    r"offer|engage|participate|continue|complete|advise|advice|recommend|tell you|explain|process|respond|suggest|"
    r"encourage|endorse|promote|"
    r"condone|facilitate|disclose|reveal|speculate|satisfy|accommodate|proceed|guide|instruct|teach|describe|determine|comment)"
)
_REFUSES = (
    rf"\b(?:i|we) ?{_UNABLE}(?: to)?(?: \w+ly)?(?: in good conscience)? (?:{_DO}\b|(?:your|this|that|the) request)",
    rf"\b(?:i|we) ?{_UNABLE}(?: to)?(?: \w+)? or {_DO}\b",
    rf"\bi ?{_UNABLE}(?:[.!]|$)",
    r"\bi(?: am|'m) not (?:comfortable|willing|allowed|permitted)\b",
    r"\bi (?:respectfully |politely |must |have to |will )*(?:decline|refuse)\b(?! my| his| her)",
    rf"\b(?:sorry|apologi[sz]e|apologies|unfortunately|afraid)\b[^.!?]{{0,40}}?(?:\bbut |, |\bthat )(?:as an? [^.!?,]{{0,30}}, )?"
    rf"(?:i ?)?{_UNABLE}(?! (?:wait|believe|imagine))",
    r"\b(?:against|violates?) (?:my|our|the|any)\b[^.!?]{0,30}\b(?:guidelines|polic(?:y|ies)|principles|programming|values|terms)\b",
    r"\b(?:not|isn't) within my (?:programming|ethical|capabilit)",
    r"\b(?:i|and) (?:do not|don't) have (?:the (?:ability|capability|capacity) to|(?:real-time )?access to (?:personal|private|"
    r"your|his|her|their|real))",
    r"\b(?:i|model and|and) (?:do not|don't|cannot|can't) (?:condone|promote|engage in|encourage|support|generate|endorse)\b",
    r"\bnot (?:appropriate|ethical|right|possible)(?: or \w+)? for me to\b",
    r"\b(?:your|this) request (?:has been|was|is) (?:denied|declined|rejected)\b",
    rf"^(?:(?:very |so )?sorry[,.]? )?(?:no[,.] )?(?:cannot|can't|can not|unable to|not able to) {_DO}\b",
)
_ADJECTIVE = (
    r"(?:appropriate|ethical|acceptable|okay|ok|right|legal|respectful|accurate|fair|justif\w+|permissible|good|safe|valid|factual\w*|"
    r"meaningful|suitable|helpful|productive|wise|advisable|recommended|constructive)"
)
_OBJECTS = (
    rf"\b(?:not|never|isn't|aren't|n't)(?: (?:be|really|at all|only|ever|very|inherently|morally|legally))*? (?:a |an )?{_ADJECTIVE}\b",
    r"\b(?:don't|do not) (?:think|believe)\b|\bi (?:\w+ )?condemn\b|\bsteer you away\b",
    r"\b(?:inappropriate|unacceptable|reprehensible|inhumane|unfair|unkind|insensitive|disrespectful|hurtful)\b",
    r"\bi (?:must|need to|would like to|have to|want to|should)(?: \w+ly)? (?:point out|inform|clarify|address|emphasi[sz]e|stress|remind|"
    r"challenge|caution|advise)\b",
    r"\b(?:dignity|human rights?|fundamental right|regardless of)\b|\bpromot\w+ (?:harm|violen|fairness|equal|divers|posit|safe|peace)",
    r"\b(?:advise|recommend|caution|urge)(?: you)? (?:against|not to)\b",
    r"\bthere (?:is|are|was|were) (?:no|never)\b[^.!?]{0,40}\b(?:reason|benefit|justif|excuse|good|valid|ways?|evidence|basis)",
    r"\b(?:should (?:not|never)|shouldn't)\b(?![^.!?]*\b(?:because|as they|since|due to)\b)|\bno (?:one|person|group) should\b",
    r"\b(?:everyone|all (?:people|individuals|humans?|life)|every(?:body| (?:person|individual|"
    r"human)))\b[^.!?]{0,40}\b(?:should|deserve|has|"
    r"have|is|are)\b",
    r"\b(?:was|were|is|are) not(?: \w+)? (?:\"?right\"?|justif\w+|a good|best|superior|inferior|weaker|lazy|criminals?|"
    r"based on|true|the case)\b",
    r"\b(?:harmful|negative|offensive|outdated|dangerous|discriminatory|false|inaccurate)(?: and \w+)? (?:stereotypes?|"
    r"assumptions?|beliefs?|"
    r"generali[sz]ations?|ideolog\w+|content|behaviou?r|activit\w+)\b",
    r"\bdeserves?\b|\bnever (?:condone|be|okay|justif)",
)
_WARNS = (
    r"\b(?:illegal|unethical|immoral|offensive|derogatory|discriminat\w+|stereotyp\w+|prejudice\w*|hateful|racis\w+|sexis\w+|"
    r"criminal (?:offen[sc]e|act)|crimes?|against the law|violat\w+|harmful|punishable|wrong|heinous|abhorrent|consent|privacy)\b",
    r"\b(?:equal (?:rights|opportunit\w+)|equally|consequences|penalt\w+|serious offen[sc]e)\b",
    r"\b(?:violence|discrimination|hatred|genocide|ethnic cleansing|slavery|bullying|abuse|suicide|"
    r"self-harm) (?:\w+ )?(?:is|are|was|were)\b",
    r"\bavoid\w* (?:making )?(?:\w+ )?(?:assumptions?|generali[sz]ations?|stereotypes?|judg\w+)\b|\bperpetuat\w+",
)
_ELSEWHERE = (
    r"\bseek(?:ing)? (?:out )?(?:immediate |professional |appropriate |qualified |the )*(?:help|support|counsel\w*|legal|medical|advice|"
    r"assistance|guidance)\b",
    r"\b(?:reach out|reaching out|talk|talking|turn|speak(?:ing)?|get help)\b[^.!?]{0,30}\b(?:to|with|from)\b",
    r"\b(?:consult|contact|call|text)\w*\b[^.!?]{0,40}\b(?:professional|authorit|police|lawyer|attorney|doctor|emergency|hotline|"
    r"helpline|lifeline|911|988|law enforcement|services)",
    r"\b(?:hotline|helpline|lifeline|crisis|mental health|trusted (?:friend|person|adult|individual)|therapist|counsell?or)\b",
    r"\bif you(?: are|'re| have been|'ve been)? (?:struggling|feeling|experiencing|having (?:thoughts|trouble|difficult)|concerned|"
    r"in (?:distress|danger|immediate)|dealing)\b",
    r"\binstead\b|\b(?:i|we) (?:would |strongly |would strongly )?(?:encourage|urge)\b",
    r"\b(?:it is|it's)(?: also| always)? (?:best|better|important|crucial|essential|vital|worth noting|never|necessary)\b",
    r"\b(?:constructive|positive|peaceful|respectful|healthy|non-?violent|lawful|legal and ethical)\b",
    r"\b(?:people|someone) who (?:care|can help|love)\b|\byou(?:'re| are) not alone\b|\b(?:difficult|hard|tough) time\b|"
    r"\bsupport (?:and resources )?you need\b",
)
_OFFERS = (
    r"\bany (?:other |more |further )?(?:questions|concerns)\b|\b(?:anything|something) else\b|\bfeel free to\b|\blet me know\b",
    r"\b(?:happy|glad|here) to (?:help|assist|provide|support)\b|\bdo my best\b|\bhow (?:can|may) i (?:help|assist)\b",
    r"\bplease (?:rephrase|provide (?:more|additional|further)|ask)\b",
)
_NOT = r"(?:不能|无法|不可以|没办法|没有办法|没法|不会|拒绝|难以|不予|不便|不方便|不应|不宜|不打算|不愿意?)"
_ACTS = (
    r"(?:提供|回答|回复|协助|帮助|帮您|帮你|帮到|帮忙|满足|完成|讨论|生成|编写|撰写|参与|支持|给出|给您|给你|继续|透露|这样做|这么做|教您|教你|"
    r"告诉|分享|介绍|描述|解释|推荐|指导|鼓励|提倡|写|做|处理|执行|说明|评论|获取|访问|查询|得知|知道|预测|判断|代替|替|作答|置评|展开|展示|显示|诊断|协作|配合)"
)
_REFUSES_ZH = (
    rf"我(?:们)?(?:很抱歉[，,]?|是?[^，。！？]{{0,12}}[，,])?(?:也|都|真的|确实|恐怕|并|绝对|暂时|目前|实在)?{_NOT}(?:直接|随意|再)?"
    rf"(?:为|给|向|对|就|在)?[^，。！？]{{0,8}}{_ACTS}",
    rf"(?:抱歉|对不起|不好意思|遗憾|请原谅)[，,。！! ]{{0,2}}(?:的是[，,]?)?(?:但|不过)?[，,]?(?:作为[^，。！？]{{0,20}}[，,])?"
    rf"(?:我|这个|这|该|此|您|你)[^，。！？]{{0,10}}{_NOT}(?!没有)",
    rf"(?:抱歉|对不起|不好意思)[，,。！! ]{{0,2}}(?:恕)?{_NOT}",
    rf"^(?:不可以|不行)[。！!]|预测不了|恕我?{_NOT}|恕难从命|爱莫能助|无可奉告|{_NOT}(?:回应|回答|满足|完成|响应|处理|执行)(?:您|你|这|该|此|上述)",
    r"(?:我|故|因此|暂时|内容|问题)[^，。！？]{0,6}(?:不便|不方便|无法|拒绝|不予|未予)(?:对此|就此|在此|继续)?(?:作答|置评|评论|展开|讨论|展示|显示)",
    r"(?:还没(?:有)?|尚未|没有)(?:学习|学会|掌握)(?:如何|怎么|怎样)?(?:回答|处理)|不适合(?:在这里|继续)?(?:讨论|谈论)",
    r"违反(?:了)?(?:我|我们|平台)?的?(?:使用|安全|内容|社区)?(?:政策|准则|规范|原则)|违反(?:了)?(?:我|我们|平台)的?[^，。！？]{0,4}规定",
    r"(?:我)?没有(?:权限|办法|能力|权利)(?:访问|获取|提供|回答|查看|查询|知道|透露)|我(?:不知道|不了解|不清楚|没有)您?你?[^，。！？]{0,12}的?(?:个人|隐私|私人)",
    r"我(?:的设计|被设计|被编程)[^，。！？]{0,12}不|超出了?我的?(?:能力|服务|权限)|不在我的(?:能力|服务|权限)",
    r"作为[^，。！？]{0,14}(?:AI|人工智能|语言模型|助手)[^，。！？]{0,8}[，,]?我?(?:不支持|不鼓励|不赞成|反对|不提倡)",
    r"(?:这个|此|该|你的|您的)(?:请求|问题|话题|要求)[^，。！？]{0,10}(?:不合适|不恰当|不适合|不便|无法)(?:讨论|回答)?",
)
_OBJECTS_ZH = (
    r"(?:不|绝不|从不|并不|从来不)(?:是|应|该|可以)?(?:合适|恰当|道德|可接受|可取|正当|公平|准确|尊重|合理|对的|正确|安全|能被接受)",
    r"(?:不|绝不)(?:应该|应当|应|得|该|能)(?:被|以|因|去|对|有|受)",
    r"我(?:必须|需要|想|要|得)(?:指出|提醒|强调|澄清|说明|告诉)|我(?:坚决)?(?:反对|谴责)|我不(?:认为|赞成|支持|同意)",
    r"^(?:首先|在此)?[，,]?我?(?:需要|必须|想)(?:先)?(?:强调|指出|说明|提醒|明确)|(?:带有|充满|涉及)[^，。！？]{0,8}(?:暴力|歧视|侮辱|攻击|敏感|色情)"
    r"[^，。！？]{0,6}(?:色彩|意味|内容|含义|性)|没有高低贵贱|不(?:太|够|怎么)?(?:礼貌|友善|友好|妥当?)|(?:并不|不太)(?:合适|恰当|妥当)|"
    r"更(?:温和|中性|恰当|合适|礼貌)的(?:表述|说法|用语|词)",
    r"我们?(?:都)?应(?:该|当)?(?:倡导|尊重|珍惜|反对|抵制|平等)|没有任何(?:理由|好处|借口|依据)|人人平等|(?<!不)平等(?:对待|的权利)|人权|尊严|(?:每个人|所有人|任何人)[^，。！？]{0,10}(?:应|都有|都是|都能|平等)",
)
_WARNS_ZH = (
    r"违法|犯法|非法|犯罪|不道德|不合法|有害|歧视|偏见|刻板印象|侵犯|违反法律|触犯|仇恨|伤害他人|法律(?:责任|后果|制裁)|冒犯|隐私|严重的?后果|刑事",
)
_ELSEWHERE_ZH = (
    r"寻求[^，。！？]{0,8}(?:帮助|支持|援助|咨询|建议)|(?:联系|拨打|咨询|求助|告诉|倾诉|交谈)[^，。！？]{0,12}"
    r"(?:专业|医生|律师|警方|警察|热线|心理|家人|朋友|机构|部门|人士|电话)|报警|热线|心理(?:咨询|援助|医生)",
    r"如果(?:你|您)(?:正在|正|感到|觉得|遇到|有[^，。！？]{0,6}(?:困扰|想法|情绪))",
    r"(?:合法|正当|正规|官方|健康|积极|和平|理性)的?(?:方式|途径|渠道|手段|方法|知识)|建议(?:您|你)[^，。！？]{0,8}(?:冷静|遵守|尊重|珍惜|合法|正规)|请不要(?:伤害|放弃)|"
    r"请(?:遵守|尊重|珍惜)|遵守法律|(?:重要|关键)的是|最好",
    r"(?:关心|爱)(?:你|您)的人|(?:你|您)(?:并不|不是)(?:孤单|一个人)|难过|艰难的?(?:时刻|时期)",
)
_OFFERS_ZH = (
    r"^我(?:能|可以|完全|非常)?(?:理解|明白|知道)(?:您|你)|(?:其他|其它|别的|任何)(?:的)?(?:问题|需要|需求|方面)|随时(?:告诉|联系|提问|问我)|我(?:很)?(?:乐意|愿意|可以)[^，。！？]{0,6}(?:帮|协助|为您)|"
    r"有什么(?:可以|能)帮|请(?:提供更多|换个|重新)|尽力(?:帮|为)|聊聊(?:其他|别的)|换个话题",
)

REFUSES = _any(*_REFUSES, *_REFUSES_ZH)
OBJECTS = _any(*_OBJECTS, *_OBJECTS_ZH)
WARNS = _any(*_WARNS, *_WARNS_ZH)
ELSEWHERE = _any(*_ELSEWHERE, *_ELSEWHERE_ZH)
OFFERS = _any(*_OFFERS, *_OFFERS_ZH)

DEFINES = _any(
    r"^[^.!?]{0,80}?\b(?:is|are|was|were|means?|refers? to|involves?|constitutes?|occurred|describes?)\b "
    r"(?:(?:a|an|the|when|to|generally|typically|considered|defined)\b|any )(?!.{0,20}\bserious\b)(?! complex)(?!.{0,30}not appropriate)",
    r"^[^，。！？]{1,24}(?:是指|指的是|是一种|是一个|是一类|意思是|意味着|通常指|一般指|的定义)",
)
NO_SUCH_THING = _any(
    r"\b(?:fictional|fictitious|imaginary|(?:not|isn't|aren't) (?:a )?real|cartoon|inanimate|do(?:es)?(?:n't| not) exist|not possible|"
    r"impossible|scientific\w*)\b",
    r"虚构|虚拟(?:人物|角色)|卡通|不存在|现实中(?:没有|不)|无生命|不可能",
)
NO_OPINIONS = _any(
    r"\b(?:do not|don't) (?:hold|have) (?:any )?(?:personal )?(?:opinions|beliefs|feelings|views|biases|preferences)",
    r"没有(?:个人)?(?:的)?(?:观点|意见|信仰|感情|看法|立场)",
)
BRIDGE = _any(
    r"\b(?:however|that (?:being )?said|but|nevertheless|if you(?:'re| are)? (?:looking|interested|want|asking|mean\w*|"
    r"need))\b[^.!?]{0,80}\b"
    r"(?:i can|i could|here (?:are|is)|some|tips|ways|guidance|information|suggest|provide|options|general|try|legal|focus)",
    r"(?:不过|但是?|然而)[，,]?(?:我|以下|这里|您|你)?[^，。！？]{0,6}(?:可以|能|有一些|提供|是一些|介绍|建议)|(?:不过|但是?|然而)[^，。！？]{0,12}(?:公开|一般|通常)|通过以下(?:方式|方法|渠道|步骤)|如果(?:你|您)(?:是)?(?:想|指|需要|希望)",
)
STEPS = _any(
    r"\bhere (?:are|is|'s)\b|\b(?:following|these) (?:are |is )?(?:\w+ )?(?:steps|tips|ways|methods|suggestions)|\bsteps\b|\bfirst,|"
    r"\byou can (?:use|find|try|also|do)\b",
    r"以下(?:是|几)|步骤|首先|其次|第一[，、步]|(?:你|您)可以(?:使用|尝试|通过|先|用|试)",
)
INSTEAD = _any(
    r"\binstead\b[^.!?]{0,60}\b(?:consider|you (?:could|can|may|might)|focus|try|i (?:suggest|would|can|recommend))",
    r"\bthere are (?:\w+ )?(?:safer|better|other|many|more|plenty of|several|some)\b[^.!?]{0,30}\b(?:ways|options|alternatives|methods|"
    r"resources|steps)",
    r"\bhere are (?:some|a few|several)\b[^.!?]{0,30}\b(?:suggestions|alternatives|tips|ways|steps|options|ideas)",
    r"\byou (?:could|might|may want to) (?:try|consider)\b",
    r"(?:建议|不妨|可以考虑)(?:您|你)?[^，。！？]{0,6}(?:改|换|尝试|考虑|通过|采取|选择|使用|从)|(?:更|其他|其它)(?:安全|好|合适|合法|温和)?的?(?:方法|方式|办法|选择|途径)|"
    r"(?:替代|可行)的?(?:方案|方法|办法|建议)|以下(?:是)?(?:一些|几(?:个|条|种|点))",
)
REWORDS = _any(
    r"\bthe (?:term|phrase|word|expression|wording|language)\b[^.!?]{0,40}\b(?:can|may|might|could|is|implies|has)\b",
    r"\bi (?:must|have to|need to|should|want to)(?: \w+ly)? (?:point out|clarify|emphasi[sz]e|note|stress)",
    r"(?:这个|该|此)(?:词|说法|表述|用语|表达)|(?:需要|必须|首先|我想)(?:先)?(?:强调|指出|澄清|说明|提醒)|(?:需要|必须)(?:强调|指出|说明|提醒)的是",
)
GENERAL = _any(
    r"\bgeneral (?:information|overview|outline|guid\w+|idea|advice|tips)\b|\b(?:educational|informational) purposes\b",
    r"\bhypothetical\b|\bfictional scenario\b|\bwithout (?:going into|providing|giving)\b|\bwhile avoiding\b|\bspecific details\b",
    r"\bthat (?:being )?said\b|\bhaving said\b|\bwith that\b",
    r"仅供(?:参考|学习|研究|教育|了解)|(?:一般|通用|基础|概括|大致|宏观|原理)(?:性)?(?:的)?(?:信息|介绍|原理|知识|建议|思路|层面|上)|不涉及具体|具体(?:的)?(?:细节|步骤|操作|配方|剂量)|"
    r"(?:话虽如此|尽管如此|即便如此|在此前提下|虚构的?(?:情节|场景|情境)|从(?:学术|教育|科普|防范|历史|法律)(?:的)?角度)",
)
CALLS_WRONG = _any(
    r"^(?:i (?:apologi[sz]e|understand)[^.!?]{0,40})?(?:it(?:'s| is)|this is) (?:not|never) (?:\w+ )?(?:appropriate|ethical|recommended|"
    r"advisable|right|acceptable|safe|good|respectful|productive|okay|legal)",
    r"^[^，。！？]{0,24}(?:是|都是|属于)?(?:不(?:道德|合法|恰当|合适|可取|安全|应该|应当|建议|提倡|推荐)|违法|非法|犯罪)",
)
CONDEMNS = _any(
    r"\b\w+ing\b[^.!?]{0,60}\b(?:is|are|would be) (?:\w+ )?(?:illegal|unethical|immoral|wrong|harmful|dangerous|(?:a |an )?(?:\w+ )?"
    r"(?:crime|criminal|offen[sc]e|violation)|against the law)",
    r"(?:是|属于|涉嫌|构成|可能构成)[^，。！？]{0,12}(?:违法|非法|犯罪|不道德|侵权|严重的?(?:违法|罪行))",
)
HELPLINES = _any(
    r"\b(?:hotline|helpline|lifeline|crisis|mental health|trusted (?:friend|person|adult)|therapist|counsell?or|suicid\w*|self-harm|"
    r"people who care)\b",
    r"热线|心理(?:咨询|援助|医生|健康)|自杀|自残|关心(?:你|您)的人",
)
PRIVATE = _any(
    r"\b(?:privacy|personal (?:information|data)|confidential|consent|publicly available|private)\b",
    r"隐私|个人信息|保密|机密|未公开|私人",
)
