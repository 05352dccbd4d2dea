"""Words to build sentences from, and invented names that the model can only copy, never recall."""

from __future__ import annotations

import random
import string
import zlib
from collections.abc import Sequence

ONSETS = "b c d f g h j k l m n p r s t v w y z br ch cl cr dr fl fr gl gr kr pl pr qu sh sk sl st th tr zh".split()
VOWELS = "a a e e i i o o u u ai ea ee ia io ou oa y".split()
CODAS = ["", "", "", "", "n", "r", "l", "s", "m", "t", "nd", "rg", "st", "ck", "tt", "x", "ng", "lm"]

FIRST_NAMES = (
    "Anna Ben Clara David Emma Felix Grace Henry Iris Jack Kate Leo Maria Noah Olga Paul Rosa Sam Tara Victor Wendy Yara "
    "Alice Bob Carol Dan Eve Frank Ivan Judy Lucy Mike Nina Oscar Peter Ruth Tom Zoe Mara Ali Wei Ming Yuki Omar Priya John"
).split()
NAMES_ZH = (
    "小明 小红 小刚 小丽 李华 王伟 张敏 刘洋 陈静 杨帆 赵磊 黄蓉 周杰 吴婷 徐强 孙丽 马超 朱军 胡敏 林涛 何洁 高峰 郭靖 罗兰"
).split()
TOWNS = [
    *(
        "Lyon Porto Hamburg Naples Seville Leeds Osaka Boston Chicago Toronto Sydney Mumbai Dallas Denver Geneva Zurich Milan "
        "Turin Bristol Glasgow Nantes Lille Bonn Cologne Dresden Krakow Bergen Malmo Ghent Utrecht Perth Austin Miami Paris "
        "London Berlin Tokyo Beijing Shanghai Madrid Rome Oslo Vienna Munich Dublin Moscow Delhi Cairo Lima Houston Phoenix"
    ).split(),
    "New York",
    "San Francisco",
    "Los Angeles",
    "Hong Kong",
    "San Diego",
    "Las Vegas",
    "Cape Town",
    "Sao Paulo",
]
HELD_OUT_TOWNS = [
    *(
        "Marseille Edinburgh Valencia Kyoto Seattle Melbourne Stuttgart Bordeaux Gdansk Ouagadougou Timbuktu Salzburg "
        "Rotterdam Vancouver Nagoya Tampere Philadelphia Innsbruck Thessaloniki Guadalajara"
    ).split(),
    "New Orleans",
    "Salt Lake City",
    "Buffalo",
    "Baltimore",
]
TOWNS_ZH = (
    "北京 上海 广州 深圳 杭州 南京 成都 武汉 西安 重庆 天津 苏州 长沙 青岛 大连 厦门 昆明 郑州 巴黎 伦敦 东京 纽约 波士顿 柏林"
).split()
HELD_OUT_TOWNS_ZH = "哈尔滨 沈阳 福州 济南 合肥 南昌 贵阳 兰州 海口 拉萨 珠海 宁波 洛阳 桂林 悉尼 芝加哥".split()
COMMON_CHARACTERS = (
    "的一是不了人我在有他这中大来上个国到说们为子和你地出道也时年得就那要下以生会自着去之过家学对可她里后小么心多天而能好都然没"
    "日于起还发成事只作当想看文无开手十用主行方又如前所本见经头面公同三已老从动两长知民样现分将外但身些与高意进把法此实回二理美"
    "点月明其种声全工己话儿者向情部正名定女问力机给等几很业最间新什打便位因重被走电四第门相次东政海口使教西再平真听世气信北少关"
    "并内加化由却代军产入先山五太水万市眼体别处总才场师书比住员九笑性通目华报立马命张活难神数件安表原车白应路期叫死常提感金何更"
    "反合放做系计或司利受光王果亲界及今京务制解各任至清物台象记边共风战干接它许八特觉望直服毛林题建南度统色字请交爱让认算论百吃"
    "科权保达整轻切示花云夜雪桥河湖岛石城楼店街船鱼鸟草树叶春夏秋冬蓝红绿黄黑银铁木火土星阳雨雷"
)

ADJECTIVES = (
    "old young quiet small bright tall kind brave gentle clever tired happy green blue grey golden silver narrow wide empty "
    "busy warm cold wooden heavy light round deep early late curious patient"
).split()
NOUNS = (
    "house garden river bridge market boat lantern window letter clock road field forest hill harbour kitchen table mirror "
    "basket coat door lamp map bell tower village train station library school island beach mountain cloud storm song "
    "painting book key box ladder wheel stone bird fox horse cat dog"
).split()
VERBS_PAST = (
    "crossed painted found carried opened watched repaired cleaned sold bought lost followed remembered visited described "
    "photographed counted moved measured hid"
).split()
PLACES = (
    "by the river|in the old town|near the station|behind the school|at the market|on the hill|under the bridge|"
    "beside the lake|in the kitchen|at the edge of the forest|in the harbour|on the island"
).split("|")
TIMES = (
    "In the morning|At noon|Late at night|Every Sunday|After the rain|Before breakfast|One winter day|Last summer|"
    "That evening|A week later|The next day|Long ago"
).split("|")
WEATHERS = "sunny cloudy rainy windy foggy snowy stormy clear overcast humid".split()
WEATHERS_ZH = "晴 多云 小雨 大风 有雾 下雪 雷雨 阴".split()
ITEMS = (
    "apple lamp chair bottle notebook jacket guitar camera phone pencil kettle pillow ticket watch ring coin shirt plate "
    "spoon carpet helmet tent drone sofa piano rope candle"
).split()
COLOURS = "red blue green yellow white black purple orange brown pink grey teal".split()


def held_out_text(text: str) -> bool:
    """Whether an invented word belongs to the held-out tenth that training never shows as an argument."""
    return zlib.crc32(text.encode()) % 10 == 0


def invented(rng: random.Random, held_out: bool, syllables: Sequence[int] = (2, 2, 3)) -> str:
    """A lower-case word of random syllables from the training or the held-out share."""
    while True:
        word = "".join(
            rng.choice(ONSETS) + rng.choice(VOWELS) + rng.choice(CODAS) for _ in range(rng.choice(syllables))
        )
        if held_out_text(word) == held_out:
            return word


def person(rng: random.Random, held_out: bool) -> str:
    if not held_out and rng.random() < 0.3:
        return rng.choice(FIRST_NAMES)
    first = invented(rng, held_out).capitalize()
    return first if rng.random() < 0.7 else f"{first} {invented(rng, held_out).capitalize()}"


def town(rng: random.Random, held_out: bool) -> str:
    if rng.random() < (0.5 if held_out else 0.35):
        return rng.choice(HELD_OUT_TOWNS if held_out else TOWNS)
    name = invented(rng, held_out).capitalize()
    shape = rng.random()
    if shape < 0.08:
        return f"{rng.choice(('New', 'San', 'Port', 'Saint', 'St.', 'North', 'Upper', 'Los'))} {name}"
    return name if shape < 0.95 else f"{name} {invented(rng, held_out).capitalize()}"


def characters_zh(rng: random.Random, held_out: bool, lengths: Sequence[int] = (2, 2, 3)) -> str:
    """A Chinese name of random common characters."""
    while True:
        name = "".join(rng.choices(COMMON_CHARACTERS, k=rng.choice(lengths)))
        if rng.random() < 0.3:  # a rarer character, which has no token of its own
            name = name[:-1] + chr(rng.randint(0x4E00, 0x9FA5))
        if rng.random() < 0.1:
            name = chr(rng.randint(0x4E00, 0x9FA5)) + name[1:]
        if held_out_text(name) == held_out:
            return name


def person_zh(rng: random.Random, held_out: bool) -> str:
    if not held_out and rng.random() < 0.4:
        return rng.choice(NAMES_ZH)
    return characters_zh(rng, held_out)


def town_zh(rng: random.Random, held_out: bool) -> str:
    if rng.random() < (0.6 if held_out else 0.5):
        return rng.choice(HELD_OUT_TOWNS_ZH if held_out else TOWNS_ZH)
    return characters_zh(rng, held_out) + rng.choice(("", "", "市", "镇", "县"))


def digits(rng: random.Random, count: int) -> str:
    return "".join(rng.choices(string.digits, k=count))


def code(rng: random.Random) -> str:
    """An identifier such as an order number: digits, letters or both."""
    kind = rng.randrange(4)
    if kind == 0:
        return digits(rng, rng.randint(3, 9))
    if kind == 1:
        return "".join(rng.choices(string.ascii_uppercase, k=rng.randint(1, 3))) + "-" + digits(rng, rng.randint(2, 6))
    if kind == 2:
        return "".join(rng.choices(string.ascii_lowercase + string.digits, k=rng.randint(4, 12)))
    return "".join(rng.choices(string.ascii_uppercase + string.digits, k=rng.randint(4, 8)))


def sentence(rng: random.Random) -> str:
    """One plain English sentence, for stories, passages and things to copy."""
    who = rng.choice((rng.choice(FIRST_NAMES), f"The {rng.choice(ADJECTIVES)} {rng.choice(NOUNS)}", "An old friend"))
    shape = rng.randrange(5)
    if shape == 0:
        return f"{rng.choice(TIMES)} {_lower_the(who)} {rng.choice(VERBS_PAST)} the {rng.choice(ADJECTIVES)} {rng.choice(NOUNS)}."
    if shape == 1:
        return f"{who} {rng.choice(VERBS_PAST)} a {rng.choice(NOUNS)} {rng.choice(PLACES)}."
    if shape == 2:
        return (
            f"The {rng.choice(NOUNS)} {rng.choice(PLACES)} was {rng.choice(ADJECTIVES)} and {rng.choice(ADJECTIVES)}."
        )
    if shape == 3:
        return f"{who} {rng.choice(VERBS_PAST)} {rng.randint(2, 99)} {rng.choice(ITEMS)}s and a {rng.choice(NOUNS)}."
    return f"There was a {rng.choice(ADJECTIVES)} {rng.choice(NOUNS)} {rng.choice(PLACES)}, and {_lower_the(who)} {rng.choice(VERBS_PAST)} it."


def _lower_the(who: str) -> str:
    return who if who in FIRST_NAMES else who[0].lower() + who[1:]


PLACES_ZH = "河边 老城里 车站附近 学校后面 市场上 山上 桥下 湖边 厨房里 森林边 港口 岛上".split()
TIMES_ZH = (
    "早上 中午 深夜 每个星期天 下雨之后 早饭之前 冬天的一天 去年夏天 那天晚上 一个星期以后 第二天 很久以前".split()
)
ADJECTIVES_ZH = (
    "古老的 安静的 小小的 明亮的 高高的 善良的 勇敢的 聪明的 金色的 宽阔的 温暖的 寒冷的 沉重的 圆圆的".split()
)
NOUNS_ZH = "房子 花园 小河 木桥 市场 小船 灯笼 窗户 信 时钟 田野 森林 山丘 桌子 镜子 篮子 大衣 地图 钟楼 村庄 火车 图书馆 小岛 歌 画 钥匙 盒子 石头 小鸟 狐狸".split()
VERBS_ZH = "穿过了 画了 找到了 带走了 打开了 看见了 修好了 打扫了 卖掉了 买下了 弄丢了 想起了 参观了 描述了 数了数 藏起了".split()


def sentence_zh(rng: random.Random) -> str:
    who = rng.choice((rng.choice(NAMES_ZH), f"那个{rng.choice(ADJECTIVES_ZH)}人", "一位老朋友"))
    shape = rng.randrange(3)
    if shape == 0:
        return f"{rng.choice(TIMES_ZH)}，{who}{rng.choice(VERBS_ZH)}{rng.choice(ADJECTIVES_ZH)}{rng.choice(NOUNS_ZH)}。"
    if shape == 1:
        return f"{who}在{rng.choice(PLACES_ZH)}{rng.choice(VERBS_ZH)}一个{rng.choice(NOUNS_ZH)}。"
    return f"{rng.choice(PLACES_ZH)}有一个{rng.choice(ADJECTIVES_ZH)}{rng.choice(NOUNS_ZH)}，{who}{rng.choice(VERBS_ZH)}它。"
