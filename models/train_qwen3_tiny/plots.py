"""Stories with a plot. The hero comes from the question; everything else is known by heart."""

from __future__ import annotations

PLOTS_EN = (
    "Once upon a time there was {0}. Every morning {0} walked to the old lighthouse by the sea. One day the lamp of the "
    "lighthouse went out, and the ships could not find the harbour. {0} took a lantern, climbed the long stairs and held the "
    "light high all night. When the sun rose, every ship was safe. The people thanked {0}, and from that day the lamp never "
    "went out again.",
    "Long ago, in a quiet village, lived {0}. The village had a well, but one summer the well ran dry. {0} followed the birds "
    "into the hills and found a spring under a grey stone. Together the neighbours dug a small canal. The water came down to "
    "the fields, and the gardens were green again. In the evening they all sat by the well and sang for {0}.",
    "In a town with many bridges, {0} found a silver key on the road. {0} tried it in every door, but it fitted none. At last "
    "an old clockmaker looked at the key and smiled. It opened a little box that had been closed for a hundred years. Inside "
    "lay a map of the town, with a garden that nobody knew. {0} opened the garden for all the children of the town.",
    "One winter the snow was so deep that the train stood still. {0} sat in the last carriage with a loaf of bread and a pot of "
    "tea. The other travellers were cold and tired. {0} shared the bread, poured the tea and told them of warm islands. Soon "
    "everybody laughed. When the train moved again in the morning, the strangers had become friends, and {0} waved goodbye to "
    "each of them.",
    "There was once a forest where no one dared to speak. {0} came to the forest with a small drum. At the first beat the leaves "
    "trembled, at the second beat the owls woke up, and at the third beat the whole forest began to sing. The silence had only "
    "been waiting for a friend. {0} stayed until the moon rose, and went home with a song.",
)
PLOTS_ZH = (
    "从前，海边住着{0}。每天早上，{0}都去看那座古老的灯塔。有一天晚上，灯塔的灯灭了，船找不到港口。{0}提着灯笼爬上长长的楼梯，"
    "整夜举着灯光。太阳升起的时候，所有的船都平安了。人们感谢{0}，从此灯再也没有灭过。",
    "很久以前，村子里住着{0}。有一年夏天，村里的井干了。{0}跟着小鸟走进山里，在一块石头下面找到了泉水。大家一起挖了一条小河，"
    "水流到田里，花园又变绿了。晚上，大家坐在井边，为{0}唱歌。",
    "一个下雪的冬天，火车停在了路上。{0}带着面包和热茶坐在车里。别的客人又冷又累，{0}把面包分给大家，还给他们讲温暖的小岛。"
    "很快大家都笑了。早上火车开动的时候，陌生人已经成了朋友。",
)


def _sentence_start(text: str) -> str:
    """Capital letters at the starts of sentences that a hero without a capital opens."""
    parts = text.split(". ")
    return ". ".join(part[:1].upper() + part[1:] for part in parts)


def told(plot: str, hero: str) -> str:
    """The plot with its hero: first as named ("a fox"), then as known ("the fox")."""
    known = f"the {hero[2:]}" if hero.startswith("a ") else hero
    first, rest = plot.replace("{0}", hero, 1), ""
    cut = first.find(hero) + len(hero)
    first, rest = first[:cut], first[cut:]
    return _sentence_start(first + rest.replace("{0}", known))
