#!/bin/bash
# Usage: rotate.sh FOLDER COUNT
folder=$1
count=$2
cd $folder
for series in $(ls *.bak | sed 's/-.*//' | sort | uniq); do
    ls -t $series-*.bak | tail -n +$count | while read name; do
        rm -rf $name
        echo $name
    done
done
