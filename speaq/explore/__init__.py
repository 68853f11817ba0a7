"""`speaq explore`: a local web page over a data set, a run or a search. Needs starlette, uvicorn and jinja2.

To add a page:

1. Write `speaq/explore/pages/NAME.py` with `PAGE = Page(title, path, routes, needs)` (`speaq.explore.context.Page`):
   `routes(context)` maps paths to endpoints; `path` is where the navigation leads; `needs` says when the page is shown
   (`data`: always, `run`: with a run folder, `predictions`: with predictions, `study`: over a search).
2. Add it to `PAGES` in `speaq/explore/app.py`; the order is that of the navigation.
3. An endpoint is a plain `def` (Starlette runs it in a thread). `context.view(request)` is the split, the run and the
   predictions that the address is about: of one of a search's trials below /trial/NNNN, the only one elsewhere.
   `context.render(request, "NAME.html", values)` fills `templates/NAME.html`, which begins with
   `{% extends "base.html" %}`. Links in templates begin with `{{ root }}`, so that they stay within their trial.
4. Everything is read only (GET), escaped, and from here: the Content-Security-Policy forbids inline scripts, inline
   `style=` and other hosts. Colours come from the variables in static/style.css; scripts go into static/.
5. A mistake in an address raises `NotFound`; that, ConfigError and DataError are shown in one line. Test with
   `tests/helpers/browser.py`; `tests/helpers/explore_data.py` makes runs and predictions without training.
"""
