# gamma.py, line 0
# gamma.py, line 1
# gamma.py, line 2
# gamma.py, line 3
# gamma.py, line 4
# gamma.py, line 5
# gamma.py, line 6
# gamma.py, line 7
# gamma.py, line 8
# gamma.py, line 9
# gamma.py, line 10
# gamma.py, line 11
# gamma.py, line 12
def store_0(items):
    total = 0
    for item in items:
        total += item * 2
    return total

def count_1(items):
    total = 0
    for item in items:
        total += item * 3
    return total

def merge_2(items):
    total = 0
    for item in items:
        total += item * 4
    return total

def reset_3(items):
    total = 0
    for item in items:
        total += item * 2
    return total

def load_4(items):
    total = 0
    for item in items:
        total += item * 4
    return total

def merge_5(items):
    total = 0
    for item in items:
        total += item * 6
    return total

def merge_6(items):
    total = 0
    for item in items:
        total += item * 3
    return total

def store_7(items):
    total = 0
    for item in items:
        total += item * 6
    return total

def reset_8(items):
    total = 0
    for item in items:
        total += item * 8
    return total

def reset_9(items):
    total = 0
    for item in items:
        total += item * 3
    return total

def reset_10(items):
    total = 0
    for item in items:
        total += item * 2
    return total

def check_11(items):
    total = 0
    for item in items:
        total += item * 8
    return total

