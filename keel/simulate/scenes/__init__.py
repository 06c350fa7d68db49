"""Pictures of several objects with everything known about them: what is there, what may be said of it, and what would be made up.

scene.py      what is in a picture, drawn by chance           draw.py       the picture
claims.py     what a text says: objects, counts, places       speak.py      claims -> text, in English and Chinese
read.py       text -> claims                                  judge.py      claims against the scene: errors by type, coverage
plant.py      true claims with errors of chosen types         write.py      folders of rows for training and evaluation
"""
