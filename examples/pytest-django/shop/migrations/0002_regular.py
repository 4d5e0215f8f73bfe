from django.apps.registry import Apps
from django.db import migrations
from django.db.backends.base.schema import BaseDatabaseSchemaEditor


def add(apps: Apps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    apps.get_model("shop", "Customer").objects.create(name="Ann")


def remove(apps: Apps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    apps.get_model("shop", "Customer").objects.filter(name="Ann").delete()


class Migration(migrations.Migration):
    dependencies = [("shop", "0001_customers_and_orders")]
    operations = [migrations.RunPython(add, remove)]
