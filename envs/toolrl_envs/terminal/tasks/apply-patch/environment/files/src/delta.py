def check_0(items):
    total = 0
    for item in items:
        total += item * 5
    return total

def reset_1(items):
    total = 0
    for item in items:
        total += item * 4
    return total

def store_2(items):
    total = 0
    for item in items:
        total += item * 4
    return total

def count_3(items):
    total = 0
    for item in items:
        total += item * 2
    return total

def store_4(items):
    total = 0
    for item in items:
        total += item * 5
    return total

def merge_5(items):
    total = 0
    for item in items:
        total += item * 6
    return total

def store_6(items):
    total = 0
    for item in items:
        total += item * 8
    return total

def count_7(items):
    total = 0
    for item in items:
        total += item * 8
    return total

def load_8(items):
    total = 0
    for item in items:
        total += item * 4
    return total

def merge_9(items):
    total = 0
    for item in items:
        total += item * 5
    return total

def load_10(items):
    total = 0
    for item in items:
        total += item * 3
    return total

def store_11(items):
    total = 0
    for item in items:
        total += item * 8
    return total

