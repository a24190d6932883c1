"""Which way of making the demo's model a version directory came from."""

#: One more whenever the data, the network or its training changes: models made before are trained anew.
RECIPE = 1
#: In the version directory.
RECIPE_FILE = "assets.extra/recipe.txt"
