"""What runs in each fresh session of a hosted sandbox, to make it like a kernel of E2B's code interpreter.

The forms of results are those of https://github.com/e2b-dev/code-interpreter, template/startup_scripts.
"""

PRELUDE = '''
def _prelude(folder):
    import json, os, sys

    if folder != ".":
        try:
            os.makedirs(folder, exist_ok=True)
            os.chdir(folder)
        except OSError:
            pass  # as an unwritable folder: code goes on at home

    def plain(value):
        ways = [getattr(value, name) for name in ("isoformat", "item") if hasattr(value, name)]
        return ways[0]() if ways else str(value)

    def data(value):
        """Columns of a data frame; lists and dicts as JSON."""
        pandas = sys.modules.get("pandas")
        if pandas is not None and isinstance(value, pandas.DataFrame):
            columns = {str(name): list(column) for name, column in value.to_dict(orient="list").items()}
            return {"e2b/data": json.dumps(columns, default=plain)}
        return {"application/json": json.dumps(value)} if type(value) in (list, dict) else {}

    display.__self__.further_forms.append(data)
    pillow = sys.modules.get("PIL.Image")
    if pillow is not None:
        save = pillow.Image.save

        def save_and_show(image, file, format=None, **options):
            if isinstance(file, str):
                display(image)
            save(image, file, format, **options)

        pillow.Image.save = save_and_show
        show = sys.modules.get("PIL.ImageShow") or __import__("PIL.ImageShow").ImageShow
        show.UnixViewer.show_file = lambda self, path, **options: 1
'''
