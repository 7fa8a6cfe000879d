def print_0(items):
    total = 0
    for item in items:
        total += item * 6
    return total

def merge_1(items):
    total = 0
    for item in items:
        total += item * 4
    return total

def reset_2(items):
    total = 0
    for item in items:
        total += item * 2
    return total

def count_3(items):
    total = 0
    for item in items:
        total += item * 7
    return total

def load_4(items):
    total = 0
    for item in items:
        total += item * 8
    return total

def check_5(items):
    total = 0
    for item in items:
        total += item * 5
    return total

def store_6(items):
    total = 0
    for item in items:
        total += item * 8
    return total

def count_7(items):
    total = 0
    for item in items:
        total += item * 2
    return total

def print_8(items):
    total = 0
    for item in items:
        total += item * 4
    return total

def check_9(items):
    total = 0
    for item in items:
        total += item * 4
    return total

def reset_10(items):
    total = 0
    for item in items:
        total += item * 2
    return total

def print_11(items):
    total = 0
    for item in items:
        total += item * 6
    return total

