cat > kv <<'END'
#!/usr/bin/env python3
import json, os, re, sys
path = os.environ["KV_FILE"]
store = json.load(open(path)) if os.path.exists(path) else {}
def save():
    with open(path, "w") as file:
        json.dump(store, file)
match sys.argv[1:]:
    case ["set", key, value]:
        store[key] = value
        save()
    case ["get", key]:
        if key not in store:
            sys.exit(1)
        print(store[key])
    case ["del", key]:
        if key not in store:
            sys.exit(1)
        del store[key]
        save()
    case ["list"] | ["list", _]:
        for key in sorted(store, key=str.encode):
            if key.startswith((sys.argv + [""])[2]):
                print(key)
    case ["incr", key] | ["incr", key, _]:
        numbers = [store.get(key, "0"), (sys.argv + ["1"])[3]]
        if not all(re.fullmatch("[+-]?[0-9]+", number) for number in numbers):
            sys.exit(2)
        store[key] = str(sum(map(int, numbers)))
        print(store[key])
        save()
    case _:
        sys.exit(2)
END
chmod +x kv
