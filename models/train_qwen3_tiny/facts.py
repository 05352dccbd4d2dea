"""What the model knows by heart: places, words, definitions and snippets, in English and Chinese."""

from __future__ import annotations


def _pairs(text: str) -> dict[str, str]:
    return dict(entry.strip().split(":", 1) for entry in text.replace("\n", "|").split("|") if entry.strip())


CAPITALS_EN = _pairs(
    """France:Paris|Germany:Berlin|Italy:Rome|Spain:Madrid|Portugal:Lisbon|Greece:Athens|Austria:Vienna|Poland:Warsaw
Norway:Oslo|Sweden:Stockholm|Finland:Helsinki|Denmark:Copenhagen|Ireland:Dublin|Belgium:Brussels|Hungary:Budapest
Romania:Bucharest|Bulgaria:Sofia|Ukraine:Kyiv|Turkey:Ankara|Egypt:Cairo|Kenya:Nairobi|Ethiopia:Addis Ababa|Ghana:Accra
Nigeria:Abuja|Morocco:Rabat|Tunisia:Tunis|Japan:Tokyo|China:Beijing|India:New Delhi|Thailand:Bangkok|Vietnam:Hanoi
Indonesia:Jakarta|Malaysia:Kuala Lumpur|Mongolia:Ulaanbaatar|Nepal:Kathmandu|Iran:Tehran|Iraq:Baghdad|Jordan:Amman
Canada:Ottawa|Mexico:Mexico City|Cuba:Havana|Peru:Lima|Chile:Santiago|Argentina:Buenos Aires|Brazil:Brasilia
Colombia:Bogota|Ecuador:Quito|Uruguay:Montevideo|Australia:Canberra|New Zealand:Wellington|Iceland:Reykjavik
Estonia:Tallinn|Latvia:Riga|Lithuania:Vilnius|Croatia:Zagreb|Serbia:Belgrade|Slovenia:Ljubljana|Switzerland:Bern
the United Kingdom:London|England:London|Scotland:Edinburgh|Wales:Cardiff|the United States:Washington, D.C.
the Netherlands:Amsterdam|Russia:Moscow|South Korea:Seoul|North Korea:Pyongyang|the Philippines:Manila|Singapore:Singapore
Pakistan:Islamabad|Bangladesh:Dhaka|Sri Lanka:Colombo|Saudi Arabia:Riyadh|Qatar:Doha|Israel:Jerusalem|Lebanon:Beirut
Syria:Damascus|Algeria:Algiers|Libya:Tripoli|Sudan:Khartoum|Uganda:Kampala|Tanzania:Dodoma|Zambia:Lusaka|Zimbabwe:Harare
Senegal:Dakar|Mali:Bamako|Angola:Luanda|Namibia:Windhoek|Rwanda:Kigali|Madagascar:Antananarivo|Bolivia:Sucre
Paraguay:Asuncion|Venezuela:Caracas|Panama:Panama City|Costa Rica:San Jose|Jamaica:Kingston|Haiti:Port-au-Prince
the Czech Republic:Prague|Slovakia:Bratislava|Albania:Tirana|Cyprus:Nicosia|Malta:Valletta|Luxembourg:Luxembourg
Georgia:Tbilisi|Armenia:Yerevan|Kazakhstan:Astana|Uzbekistan:Tashkent|Cambodia:Phnom Penh|Laos:Vientiane|Fiji:Suva"""
)

CAPITALS_ZH = _pairs(
    """法国:巴黎|德国:柏林|意大利:罗马|西班牙:马德里|葡萄牙:里斯本|希腊:雅典|奥地利:维也纳|波兰:华沙|挪威:奥斯陆|瑞典:斯德哥尔摩
芬兰:赫尔辛基|丹麦:哥本哈根|爱尔兰:都柏林|比利时:布鲁塞尔|匈牙利:布达佩斯|土耳其:安卡拉|埃及:开罗|肯尼亚:内罗毕|日本:东京
中国:北京|印度:新德里|泰国:曼谷|越南:河内|印度尼西亚:雅加达|马来西亚:吉隆坡|蒙古:乌兰巴托|尼泊尔:加德满都|伊朗:德黑兰
伊拉克:巴格达|加拿大:渥太华|墨西哥:墨西哥城|古巴:哈瓦那|秘鲁:利马|智利:圣地亚哥|阿根廷:布宜诺斯艾利斯|巴西:巴西利亚
澳大利亚:堪培拉|新西兰:惠灵顿|冰岛:雷克雅未克|瑞士:伯尔尼|英国:伦敦|美国:华盛顿|荷兰:阿姆斯特丹|俄罗斯:莫斯科|韩国:首尔
菲律宾:马尼拉|新加坡:新加坡|巴基斯坦:伊斯兰堡|沙特阿拉伯:利雅得|乌克兰:基辅|捷克:布拉格|罗马尼亚:布加勒斯特"""
)

CONTINENTS = _pairs(
    """France:Europe|Germany:Europe|Italy:Europe|Spain:Europe|Portugal:Europe|Greece:Europe|Poland:Europe|Norway:Europe
Sweden:Europe|Finland:Europe|Austria:Europe|Hungary:Europe|Ireland:Europe|Switzerland:Europe|Japan:Asia|China:Asia|India:Asia
Thailand:Asia|Vietnam:Asia|Mongolia:Asia|Nepal:Asia|Indonesia:Asia|South Korea:Asia|Egypt:Africa|Kenya:Africa|Ghana:Africa
Nigeria:Africa|Morocco:Africa|Ethiopia:Africa|Uganda:Africa|Senegal:Africa|Canada:North America|Mexico:North America
Cuba:North America|Peru:South America|Chile:South America|Argentina:South America|Brazil:South America
Colombia:South America|Ecuador:South America|Australia:Oceania|New Zealand:Oceania|Fiji:Oceania"""
)

WORDS_EN_ZH = _pairs(
    """cat:猫|dog:狗|fish:鱼|bird:鸟|horse:马|cow:牛|sheep:羊|tiger:老虎|rabbit:兔子|tree:树|flower:花|grass:草|mountain:山|river:河
sea:海|lake:湖|sun:太阳|moon:月亮|star:星星|rain:雨|snow:雪|wind:风|fire:火|water:水|tea:茶|coffee:咖啡|rice:米饭|bread:面包
apple:苹果|milk:牛奶|egg:鸡蛋|meat:肉|soup:汤|book:书|pen:笔|paper:纸|table:桌子|chair:椅子|door:门|window:窗户|house:房子
school:学校|teacher:老师|student:学生|friend:朋友|mother:妈妈|father:爸爸|child:孩子|city:城市|road:路|car:汽车|train:火车
airplane:飞机|ship:船|bicycle:自行车|red:红色|blue:蓝色|green:绿色|yellow:黄色|white:白色|black:黑色|big:大|small:小|hot:热
cold:冷|new:新|old:旧|today:今天|tomorrow:明天|yesterday:昨天|morning:早上|evening:晚上|hello:你好|goodbye:再见|thank you:谢谢
yes:是|no:不是|one:一|two:二|three:三|four:四|five:五|six:六|seven:七|eight:八|nine:九|ten:十|music:音乐|doctor:医生|phone:电话
computer:电脑|time:时间|money:钱|hand:手|head:头|eye:眼睛|heart:心|name:名字|weather:天气|summer:夏天|winter:冬天"""
)

DEFINITIONS_EN = _pairs(
    """photosynthesis:Photosynthesis is how plants turn light, water and carbon dioxide into sugar and oxygen.
gravity:Gravity is the force that pulls things with mass toward each other.
a router:A router is a device or program that decides where each message goes next.
a token:A token is a small piece of text that a language model reads or writes as one unit.
a tokenizer:A tokenizer turns text into tokens and tokens back into text.
a language model:A language model is a program that predicts the next token of a text.
machine learning:Machine learning is the making of programs that learn rules from examples.
artificial intelligence:Artificial intelligence is the field that builds machines which do tasks that need thought.
deep learning:Deep learning is machine learning with neural networks of many layers.
a neural network:A neural network is a model made of layers of simple connected units.
a transformer:A transformer is a neural network that uses attention to relate the tokens of a text.
attention:Attention lets a model weigh which earlier tokens matter for the next one.
a GPU:A GPU is a chip that does many simple calculations at the same time.
a CPU:A CPU is the main chip of a computer, which runs its programs.
memory:Memory is where a computer keeps data while it works.
an algorithm:An algorithm is a list of clear steps that solves a problem.
a database:A database is an ordered store of data that programs can search.
a cache:A cache keeps recent results so that they can be found again quickly.
a server:A server is a program or computer that answers requests from others.
a client:A client is a program that sends requests to a server.
a network:A network is a group of computers that can send messages to each other.
the internet:The internet is the network that joins computers all over the world.
a variable:A variable is a name that stands for a value in a program.
a function:A function is a named piece of a program that takes inputs and gives back a result.
a loop:A loop repeats a piece of a program several times.
a list:A list is an ordered row of values.
a string:A string is a piece of text in a program.
recursion:Recursion is when a function calls itself to solve a smaller part of a problem.
Python:Python is a programming language that is known for clear and short programs.
JSON:JSON is a text format for data made of objects, lists, strings and numbers.
HTTP:HTTP is the protocol that browsers and servers use to exchange messages.
gRPC:gRPC is a way for programs to call each other over a network with typed messages.
Redis:Redis is a fast store that keeps data in memory under keys.
quantum computing:Quantum computing uses quantum states to do some calculations faster than usual computers.
an atom:An atom is the smallest piece of an element that still is that element.
a molecule:A molecule is a group of atoms held together.
a cell:A cell is the smallest living unit of a body.
a planet:A planet is a large round body that moves around a star.
a star:A star is a huge ball of hot gas that gives light.
a galaxy:A galaxy is a very large group of stars.
an eclipse:An eclipse is when one body in space hides another from view.
a volcano:A volcano is a mountain where hot rock comes out of the ground.
a river:A river is a long stream of water that flows to a sea or lake.
an island:An island is land with water on all sides.
a desert:A desert is a place with very little rain.
a forest:A forest is a large area full of trees.
a mammal:A mammal is a warm animal that feeds its young with milk.
an insect:An insect is a small animal with six legs.
evaporation:Evaporation is when water turns into vapour.
energy:Energy is what makes things move, heat up or change.
democracy:Democracy is a system where the people choose who governs.
inflation:Inflation is a general rise of prices over time.
a prime number:A prime number is a whole number above 1 that only 1 and itself divide.
an even number:An even number is a whole number that 2 divides.
a triangle:A triangle is a shape with three sides.
a circle:A circle is a round shape whose points are all the same distance from its centre.
an adjective:An adjective is a word that describes a noun.
a verb:A verb is a word for an action or a state.
a poem:A poem is a short text that plays with rhythm and sound.
a novel:A novel is a long story in a book."""
)

DEFINITIONS_ZH = _pairs(
    """光合作用:光合作用是植物用光、水和二氧化碳制造糖和氧气的过程。|重力:重力是有质量的物体互相吸引的力。
路由器:路由器是决定每条消息下一步去哪里的设备或程序。|词元:词元是语言模型一次读写的一小段文字。
分词器:分词器把文字变成词元，也把词元变回文字。|语言模型:语言模型是预测下一个词元的程序。
机器学习:机器学习是让程序从例子中学会规律的方法。|人工智能:人工智能是让机器完成需要思考的任务的学科。
深度学习:深度学习是使用多层神经网络的机器学习。|神经网络:神经网络是由许多相连的简单单元组成的模型。
注意力机制:注意力机制让模型判断前面哪些词元更重要。|算法:算法是解决问题的一系列明确步骤。
数据库:数据库是程序可以查询的有序数据仓库。|缓存:缓存保存最近的结果，以便很快再次找到。
服务器:服务器是回答其他程序请求的程序或电脑。|互联网:互联网是连接全世界电脑的网络。
变量:变量是程序里代表一个值的名字。|函数:函数是接受输入并返回结果的一段程序。|循环:循环让一段程序重复运行多次。
递归:递归是函数调用自己来解决更小的问题。|原子:原子是元素的最小单位。|细胞:细胞是生物最小的生命单位。
行星:行星是围绕恒星运动的大而圆的天体。|恒星:恒星是发光的巨大气体球。|火山:火山是岩浆从地下喷出的山。
岛:岛是四面有水的陆地。|沙漠:沙漠是雨水很少的地方。|森林:森林是长满树木的大片土地。|昆虫:昆虫是有六条腿的小动物。
能量:能量是让物体运动、变热或变化的东西。|质数:质数是大于1并且只能被1和自己整除的整数。|偶数:偶数是能被2整除的整数。
三角形:三角形是有三条边的图形。|诗:诗是讲究节奏和声音的短文。|小说:小说是写成书的长故事。"""
)

SERIES_EN: dict[str, list[str]] = {
    "the days of the week": "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split(),
    "the months of the year": (
        "January February March April May June July August September October November December".split()
    ),
    "the four seasons": "spring summer autumn winter".split(),
    "the planets of the solar system": "Mercury Venus Earth Mars Jupiter Saturn Uranus Neptune".split(),
    "the letters of the alphabet": list("ABCDEFGHIJKLMNOPQRSTUVWXYZ"),
    "the colours of the rainbow": "red orange yellow green blue indigo violet".split(),
    "the continents": ["Africa", "Antarctica", "Asia", "Europe", "North America", "Oceania", "South America"],
}
SERIES_ZH: dict[str, list[str]] = {
    "一周的七天": "星期一 星期二 星期三 星期四 星期五 星期六 星期日".split(),
    "一年的十二个月": "一月 二月 三月 四月 五月 六月 七月 八月 九月 十月 十一月 十二月".split(),
    "四个季节": "春天 夏天 秋天 冬天".split(),
    "太阳系的行星": "水星 金星 地球 火星 木星 土星 天王星 海王星".split(),
    "彩虹的颜色": "红色 橙色 黄色 绿色 蓝色 靛色 紫色".split(),
}
GROUPS_EN: dict[str, list[str]] = {
    "fruits": "apple banana cherry grape lemon mango orange peach pear plum".split(),
    "animals": "cat dog horse lion tiger rabbit bear fox wolf sheep".split(),
    "colours": "red blue green yellow white black purple orange brown pink".split(),
    "colors": "red blue green yellow white black purple orange brown pink".split(),
    "vegetables": "carrot potato tomato onion cabbage bean pea spinach pepper leek".split(),
    "countries": "France Germany Japan China Brazil Canada Egypt India Spain Kenya".split(),
    "sports": "football tennis swimming running boxing rowing hockey golf skiing cycling".split(),
    "instruments": "piano violin guitar flute drum trumpet cello harp horn organ".split(),
    "programming languages": "Python C Java Rust Go Ruby Swift Kotlin Lua Haskell".split(),
}
GROUPS_ZH: dict[str, list[str]] = {
    "水果": "苹果 香蕉 葡萄 柠檬 芒果 橙子 桃子 梨 西瓜 草莓".split(),
    "动物": "猫 狗 马 狮子 老虎 兔子 熊 狐狸 狼 羊".split(),
    "颜色": "红色 蓝色 绿色 黄色 白色 黑色 紫色 橙色 棕色 粉色".split(),
    "国家": "法国 德国 日本 中国 巴西 加拿大 埃及 印度 西班牙 肯尼亚".split(),
    "运动": "足球 网球 游泳 跑步 拳击 划船 滑雪 篮球 排球 乒乓球".split(),
}
