cat > rpn <<'END'
#!/usr/bin/env python3
import re, sys
NEEDS = {"+": 2, "-": 2, "*": 2, "/": 2, "%": 2, "swap": 2, "dup": 1, "drop": 1}
def value(line):
    stack = []
    for word in line.split():
        if re.fullmatch("[+-]?[0-9]+", word):
            stack.append(int(word))
        elif word not in NEEDS:
            return f"error: word {word}"
        elif len(stack) < NEEDS[word]:
            return "error: stack"
        elif word == "dup":
            stack.append(stack[-1])
        elif word == "drop":
            stack.pop()
        else:
            b, a = stack.pop(), stack.pop()
            if word == "swap":
                stack += [b, a]
            elif word in "/%":
                if not b:
                    return "error: zero"
                whole = abs(a) // abs(b)
                whole = whole if (a < 0) == (b < 0) else -whole
                stack.append(whole if word == "/" else a - b * whole)
            else:
                stack.append(a + b if word == "+" else a - b if word == "-" else a * b)
    return " ".join(map(str, stack)) or "empty"
for line in sys.stdin:
    print(value(line))
END
chmod +x rpn
