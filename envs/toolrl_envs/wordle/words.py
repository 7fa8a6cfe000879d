"""Common English words of five letters, the secrets of the game."""

_TEXT = """
about above actor acute adapt admit adopt adult after again agent agree ahead alarm album alert alike alive allow alone
along alter amber ample angel anger angle angry ankle apart apple apply apron arena argue arise armor arrow aside asset
attic audio avoid awake award aware bacon badge baker basic basin beach beard beast began begin being below bench berry
birth black blade blame blank blast blaze blend bless blind block blood bloom board boast bonus boost booth bound brain
brake brand brass brave bread break breed brick bride brief bring broad broom brown brush build bunch burst cabin cable
camel canal candy canoe cargo carry carve catch cause cedar chain chair chalk charm chart chase cheap check cheek cheer
chess chest chief child choir chord civic claim class clean clear clerk cliff climb cloak clock close cloth cloud clown
coach coast cocoa comet comic coral couch count court cover crack craft crane crash crawl cream creek crest crime crisp
cross crowd crown crust cubic curve cycle daily dairy dance debut decay delay depth devil diary digit diner dough draft
drain drama dream dress drift drill drink drive eager eagle early earth easel eight elbow elder empty enemy enjoy enter
entry equal error event every exact exist extra fable faint fairy faith false fancy feast fence ferry fever field fifty
fight final flame flash fleet flesh float flock flood floor flour fluid flute focus force forge forty found frame fresh
front frost fruit funny ghost giant given glass globe glory glove grace grade grain grand grant grape graph grasp grass
great green greet grief group grove guard guess guest guide habit happy harsh hasty heart heavy hedge hello honey honor
horse hotel house human humor hurry ideal image index inner input irony issue ivory jewel joint joker judge juice juicy
jumbo kayak knife knock label labor large laser latch later laugh layer learn least leave legal lemon level light limit
linen liver local lodge logic loose lower loyal lucky lunar lunch magic major maker mango maple march marsh match mayor
medal media melon mercy merge merit merry metal meter might minor mixed model money month moral motor mount mouse mouth
movie music naked nasty naval nerve never night noble noise north novel nurse oasis ocean offer often olive onion opera
orbit order organ other ought outer owner paint panel panic paper party patch pause peace peach pearl pedal penny phase
phone photo piano piece pilot pinch pitch pizza place plain plane plant plate plaza point polar porch pound power press
price pride prime print prize proof proud pulse punch pupil puppy queen quest quick quiet quilt quite quota quote radar
radio raise ranch range rapid ratio reach ready realm rebel relax reply rider ridge rifle right rigid risky rival river
roast robin robot rocky rough round route royal rural salad salty sandy sauce scale scarf scene scent scope score scout
scrap sense serve seven shade shake shame shape share shark sharp sheep sheet shelf shell shift shine shirt shock shore
short shout sight silly skill skirt slate sleep slice slide slope small smart smile smoke snack snake solar solid solve
sorry sound south space spare spark speak speed spell spend spice spill spine spoon sport squad stack staff stage stair
stamp stand start state steam steel steep stick still sting stone store storm story stove straw strip study stuff style
sugar sunny super swamp sweet swift swing sword table taste teach tempo tenth thank theme thick thief thing think third
thorn three throw thumb tiger tight timer title toast today token tooth topic torch total touch tough tower trace track
trade trail train treat trend trial tribe trick truck trunk trust truth tulip tutor twice twist uncle under union unite
until upper upset urban usual valid value vapor vault video vigor vinyl viral visit vital vivid vocal voice voter wagon
waist waste watch water weary weave wedge wheat wheel where which while white whole widow width woman world worry worth
wound wrist write wrong yacht young youth zebra
"""

WORDS = tuple(_TEXT.split())
