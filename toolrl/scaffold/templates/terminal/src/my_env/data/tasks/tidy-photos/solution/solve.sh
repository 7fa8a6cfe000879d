mkdir photos
mv *.jpg photos
