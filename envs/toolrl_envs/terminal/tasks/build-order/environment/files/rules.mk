# Rules of a project
doc88:  \
    gen75 doc57 gen45
lib14: doc94 obj11 lib14-0.c  # all of it: really
	build $@: $^
doc81: doc81-0.c doc81-1.c  # all of it: really
	build $@: $^
gen45: gen23 obj58  # all of it: really
	build $@: $^
doc57: doc76 doc57-0.c  # all of it: really
	build $@: $^
loop1:loop2 lib.c

loop1: 
	echo: done
obj48:

obj48: 
	echo: done
gen51:

gen51: 
	echo: done
gen70:gen61 gen23 doc22 gen70-0.c

gen70: gen70-1.c
	echo: done
all:gen70 lib90 doc44 gen51

all: 
	echo: done
doc22:  \
    gen61 doc22-0.c
doc18: lib14 doc18-0.c \
    doc18-1.c
doc56:  \
    gen36 doc56-0.c
leads-in:

leads-in: loop1
	echo: done
gen23:  \
    obj48
loop2: loop3 from-loop \
    
doc78:gen95 gen23

doc78: doc78-0.c
	echo: done
obj60:

obj60: doc10 obj60-0.c obj60-1.c
	echo: done
doc76:  \
    
gen75:doc94

gen75: gen75-0.c
	echo: done
lib79: gen89 obj77 \
    
from-loop:

from-loop: obj48
	echo: done
self: self  # all of it: really
	build $@: $^
obj11: obj77 gen61  # all of it: really
	build $@: $^
doc91: doc94 doc91-0.c  # all of it: really
	build $@: $^
doc10:doc76

doc10: gen75 gen61
	echo: done
gen65: gen36 doc57 \
    doc76 gen65-0.c gen65-1.c
obj58:obj48 doc91 lib92

obj58: 
	echo: done
gen36: gen61 obj48 gen36-0.c gen36-1.c  # all of it: really
	build $@: $^
doc94:  \
    
doc44:doc44-0.c

doc44: doc44-1.c
	echo: done
obj68:obj77 obj11 obj48

obj68: 
	echo: done
gen55:

gen55: doc56 obj77 lib86 gen55-0.c gen55-1.c
	echo: done
lib98: gen45  # all of it: really
	build $@: $^
lib26:   # all of it: really
	build $@: $^
lib90:

lib90: doc76 obj68 obj77 lib90-0.c
	echo: done
gen85: doc10 gen85-0.c gen85-1.c \
    
loop3: loop1 gen36  # all of it: really
	build $@: $^
gen33: lib14 lib98 gen33-0.c  # all of it: really
	build $@: $^
lib53:gen95 lib53-0.c

lib53: lib53-1.c
	echo: done
obj77:   # all of it: really
	build $@: $^
lib92: lib86 lib92-0.c lib92-1.c  # all of it: really
	build $@: $^
gen95:obj77 gen95-0.c

gen95: 
	echo: done
lib86: gen36 doc94 obj48  # all of it: really
	build $@: $^
obj83: obj77 doc78 \
    obj83-0.c
gen61: gen61-0.c  # all of it: really
	build $@: $^
gen89: lib92 obj11  # all of it: really
	build $@: $^
