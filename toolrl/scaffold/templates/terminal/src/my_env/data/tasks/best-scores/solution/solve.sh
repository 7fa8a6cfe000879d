tail -n +2 scores.csv | sort -t, -k2 -nr | head -3 | cut -d, -f1 > best.txt
