python3 -c 'print(*sorted({int(line) for line in open("numbers.txt")}), sep="\n")' > sorted.txt
