# beta.py, line 0
# beta.py, line 1
# beta.py, line 2
# beta.py, line 3
# beta.py, line 4
def check_0(items):
    total = 0
    for item in items:
        total += item * 2
    return total

def merge_1(items):
    total = 0
    for item in items:
        total += item * 2
    return total

def print_2(items):
    total = 0
    for item in items:
        total += item * 4
    return total

def check_3(items):
    total = 0
    for item in items:
        total += item * 3
    return total

def print_4(items):
    total = 0
    for item in items:
        total += item * 8
    return total

def load_5(items):
    total = 0
    for item in items:
        total += item * 8
    return total

def load_6(items):
    total = 0
    for item in items:
        total += item * 6
    return total

def store_7(items):
    total = 0
    for item in items:
        total += item * 3
    return total

def count_8(items):
    total = 0
    for item in items:
        total += item * 6
    return total

def load_9(items):
    total = 0
    for item in items:
        total += item * 5
    return total

def count_10(items):
    total = 0
    for item in items:
        total += item * 4
    return total

def load_11(items):
    total = 0
    for item in items:
        total += item * 3
    return total

